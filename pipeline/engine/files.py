"""The files of an engine folder: written by `pipeline.engine.conversion`, read by whoever runs or compares."""

TAPS_FILE = "taps.xml"  # a network from pixels to every tap
MOMENTS_FILE = "moments.xml"  # a network from pixels to the moments of every BatchNorm layer's input
STATISTICS_FILE = "statistics.npz"  # per BatchNorm layer: moving mean, moving variance, epsilon
CLASSIFIER_FILE = "classifier.xml"  # a delivered model, from pixels to probabilities
PROBABILITIES = "probabilities"  # its one output

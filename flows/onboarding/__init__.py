"""From a folder of pictures to a model, and again when the folder has grown."""

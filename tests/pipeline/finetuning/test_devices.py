import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.pipeline.finetuning.test_train import a_network

pytestmark = pytest.mark.heavy

TWO_DEVICES = """
from pipeline.quiet_keras import tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from pipeline.finetuning import train
from pipeline.finetuning.devices import all_gpus, num_replicas
train.SECONDS_BETWEEN_LOOKS = 0.0
from tests.pipeline.finetuning.test_train import Kept, a_network, a_schedule, run
with all_gpus(["CPU:0", "CPU:1"]):
    whole, stopped = Kept(), Kept(stop_at=8)
    network, curve = run(a_schedule(), whole)
    try:
        run(a_schedule(), stopped)
    except Exception as error:
        assert type(error).__name__ == "CancelledError", error
    _, resumed = run(a_schedule(), stopped)
learns = curve[-1].train_loss < curve[1].train_loss
print(num_replicas(network), [row.step for row in curve], stopped.num_looks > 8, len(resumed), learns)
"""


def test_without_a_capable_gpu_everything_is_float32(keras, monkeypatch):
    from pipeline.finetuning.devices import best_precision
    from pipeline.quiet_keras import tf

    details = {"compute_capability": (9, 0)}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    assert best_precision() == "float32"
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["one"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: details)
    assert best_precision() == "mixed_bfloat16"
    details["compute_capability"] = (7, 5)
    assert best_precision() == "float32"


def test_several_devices_share_every_batch_and_a_training_on_them_resumes():
    done = subprocess.run([sys.executable, "-c", TWO_DEVICES], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[0] == "2 [0, 6, 12, 18] True 4 True", done.stderr


def test_without_gpus_nothing_is_shared_out(keras):
    from pipeline.finetuning.devices import all_gpus, num_replicas

    with all_gpus():
        assert num_replicas(a_network()) == 1

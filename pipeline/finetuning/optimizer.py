"""An AdamW in which every stage of a network has its own learning rate and its own start.

Heavy leaf: importing it loads TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.quiet_keras import keras

ops = keras.ops


class StagedAdamW(keras.optimizers.Adam):  # type: ignore[misc]  # Keras has no types
    """Adam with decoupled weight decay of kernels (Loshchilov & Hutter 2019, arXiv:1711.05101).

    Stage 0 is the head, 1 the last stage of the backbone, and so on to its first. With 1.0 and 0 all are alike.
    """

    def __init__(
        self,
        learning_rate: keras.optimizers.schedules.LearningRateSchedule,
        *,
        stages: Sequence[int],
        layer_decay: float,
        unfreeze_steps: int,
        decoupled_decay: float,
        clip: float,
    ) -> None:
        """Stages are those of the trainable variables, in order; each begins later than the one behind it."""
        super().__init__(learning_rate, global_clipnorm=clip)
        self._stages = stages
        self._layer_decay, self._unfreeze_steps, self._decay = layer_decay, unfreeze_steps, decoupled_decay

    def update_step(
        self, gradient: keras.KerasTensor, variable: keras.Variable, learning_rate: keras.KerasTensor
    ) -> None:
        """Move one variable by its stage's rate."""
        stage = self._stages[self._get_variable_index(variable)]
        rate = ops.multiply(learning_rate, self._layer_decay**stage)
        if self._unfreeze_steps and stage:
            rate = ops.where(self.iterations >= stage * self._unfreeze_steps, rate, ops.zeros_like(rate))
        if len(variable.shape) > 1:
            self.assign_sub(variable, ops.multiply(variable, ops.cast(rate * self._decay, variable.dtype)))
        super().update_step(gradient, variable, rate)

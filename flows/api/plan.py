"""A plan as people see it in a notebook."""

from __future__ import annotations

from dataclasses import fields

from pipeline.decision import nouns


class Plan(nouns.Plan):
    """What would be done with a dataset, and why: `case`, `strategy`, `reasons`, `similarity`, `size`, `quote`.

    In a notebook it is shown as its quadrant and its reasons.
    """

    __slots__ = ()

    @classmethod
    def of(cls, plan: nouns.Plan) -> Plan:
        """Take over the fields of a plan."""
        return cls(**{field.name: getattr(plan, field.name) for field in fields(plan)})

    def _repr_markdown_(self) -> str:
        from pipeline.report.decision import quadrant
        from pipeline.report.markdown import bullets

        return "\n\n".join(
            [f"**Case {self.case}, {self.strategy}**", "\n".join(quadrant(self)), "\n".join(bullets(self.reasons))]
        )

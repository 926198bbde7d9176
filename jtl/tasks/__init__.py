"""Tasks: the record every task fills, and the explicit dict of tasks (one file each)."""

from jtl.tasks import masked_tokens, multiclass, multilabel, regression
from jtl.tasks.contract import Head, LabelStats, Task, TaskKind

__all__ = ["TASKS", "Head", "LabelStats", "Task", "TaskKind"]

TASKS: dict[str, TaskKind] = {
    "multiclass": multiclass.KIND,
    "multilabel": multilabel.KIND,
    "regression": regression.KIND,
    "masked_tokens": masked_tokens.KIND,
}

"""Tasks: the record every task fills, and the explicit dict of tasks (one file each)."""

from jtl.tasks import multiclass, multilabel, regression
from jtl.tasks.contract import LabelStats, Task, TaskKind

__all__ = ["TASKS", "LabelStats", "Task", "TaskKind"]

TASKS: dict[str, TaskKind] = {
    "multiclass": multiclass.KIND,
    "multilabel": multilabel.KIND,
    "regression": regression.KIND,
}

"""What one server has and is doing: the one thing of it that changes, in its event loop alone."""

from jtl.serve.batching import Batcher
from jtl.serve.bodies import Held
from jtl.serve.counters import Counters
from jtl.serve.engine import Engine
from jtl.serve.settings import Settings
from jtl.tasks import TASKS


class Served:
    """A model that is served; `title` is what people call it.

    `costs` are the seconds of a batch by its size, empty until every program is compiled, of which
    `num_compiled` are; `fault` is why that failed. `num_active` requests are being answered.
    """

    def __init__(self, engine: Engine, settings: Settings, title: str) -> None:
        self.engine, self.settings, self.title = engine, settings, title
        self.transform = engine.predictor.input.transform(engine.predictor.preprocess, None)
        self.counters = Counters()
        self.held = Held(settings.max_held_bytes)
        self.costs: dict[int, float] = {}
        self.num_compiled, self.num_active = 0, 0
        self.is_stopping = False
        self.fault: Exception | None = None
        self.batcher: Batcher | None = None

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered, and more may come."""
        return bool(self.costs) and not self.is_stopping

    @property
    def holds(self) -> str:
        """What the model's raw examples are: "image" or "text"."""
        return self.engine.predictor.input.holds

    @property
    def label_kind(self) -> str:
        """What the model says of an item: "class", "multilabel" or "regression"."""
        return TASKS[self.engine.predictor.settings.task.name].label_kind

    def progress(self) -> str:
        """Return what the server is at, for people."""
        if self.is_stopping:
            return "the server is stopping"
        if self.is_ready:
            return "ready"
        return f"{self.num_compiled} of {self.engine.num_programs} programs are compiled"

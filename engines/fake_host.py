"""An engine host without processes, for tests of whatever drives one."""

from engines.host import AdapterRefused, Ended, EngineSilent, Seen, ServeSpec


class FakeHost:
    """Remembers what it was asked; the test decides what is seen, by writing to `seen`.

    A started engine is STARTING until the test says otherwise; a stopped one is ABSENT, or
    stays as it is while `slow_to_stop` holds its name.
    """

    def __init__(self) -> None:
        self.seen: dict[str, Seen] = {}
        self.specs: dict[str, ServeSpec] = {}  # of the latest start of each name
        self.started: list[str] = []  # names, in order, each real start once
        self.stopped: list[str] = []  # names, in order, each call
        self.slow_to_stop: set[str] = set()
        self.logs: dict[str, str] = {}
        self.endings: dict[str, Ended] = {}
        self.adapters: dict[str, dict[str, str]] = {}  # by engine: adapter -> folder
        self.refused: dict[str, str] = {}  # adapter -> why no engine loads it

    def observe(self, name: str) -> Seen:
        return self.seen.get(name, Seen.ABSENT)

    def start(self, spec: ServeSpec) -> None:
        if self.observe(spec.name) not in (Seen.ABSENT, Seen.EXITED):
            return
        self.adapters.pop(spec.name, None)
        self.started.append(spec.name)
        self.specs[spec.name] = spec
        self.seen[spec.name] = Seen.STARTING

    def stop(self, name: str) -> None:
        self.stopped.append(name)
        if name not in self.slow_to_stop:
            self.seen.pop(name, None)

    def pid(self, name: str) -> int | None:
        return 1 if self.observe(name) not in (Seen.ABSENT, Seen.EXITED) else None

    def log_tail(self, name: str) -> str:
        return self.logs.get(name, "")

    def ended(self, name: str) -> Ended | None:
        if self.observe(name) is not Seen.EXITED:
            return None
        return self.endings.get(name, Ended(log=self.log_tail(name)))

    def list_adapters(self, name: str) -> dict[str, str]:
        if self.observe(name) is not Seen.HEALTHY:
            raise EngineSilent(f"{name} is not healthy")
        return dict(self.adapters.get(name, {}))

    def load_adapter(self, name: str, *, adapter_name: str, folder: str) -> None:
        self.list_adapters(name)
        if adapter_name in self.refused:
            raise AdapterRefused(self.refused[adapter_name])
        self.adapters.setdefault(name, {})[adapter_name] = folder

    def unload_adapter(self, name: str, *, adapter_name: str) -> None:
        self.list_adapters(name)
        self.adapters.get(name, {}).pop(adapter_name, None)

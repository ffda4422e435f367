"""Adapters by name on a running engine: which there are, which are in memory, who uses them.

No torch here: what an adapter is in memory is the engine's matter (`read` makes it). All methods
are called on the event loop; reading happens in a thread beside it, never between two steps.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from engines.protocol.errors import ApiError, invalid, no_such_model, unavailable

W = TypeVar("W")
LONGEST_NAME = 256
READERS = 2  # adapters read at once, on threads of their own: prompts need the common ones
FULL_RETRY_SECONDS = 2


@dataclass(eq=False)
class _Entry(Generic[W]):
    name: str
    path: Path
    weights: W | None = None
    reading: "asyncio.Task[W] | None" = None
    uses: int = 0
    used_at: int = 0  # counts uses of all adapters: the least is the least recently used

    @property
    def is_resident(self) -> bool:
        return self.weights is not None or self.reading is not None


@dataclass
class Use(Generic[W]):
    """An adapter held for one request: it stays in memory until `close`."""

    weights: W
    _close: Callable[[], None] = field(repr=False)
    _is_open: bool = True

    def close(self) -> None:
        """Safe to call twice."""
        if self._is_open:
            self._is_open = False
            self._close()


class Adapters(Generic[W]):
    """At most `most` are in memory. The least recently used idle one makes room for another, and
    is read from its folder again when it is next asked for. One in use is never put away; who asks
    for an adapter while all places are in use waits for the first to be free, in turn.

    Adapters may be loaded from `folders` alone, links in them resolved; none means not at all.
    """

    def __init__(
        self,
        *,
        base: str,
        folders: Sequence[str],
        most: int,
        most_waiting: int,
        read: Callable[[Path], W],
    ) -> None:
        self._base = base
        self._folders = [Path(each) for each in folders]
        self._most = most
        self._most_waiting = most_waiting
        self._read = read
        self._entries: dict[str, _Entry[W]] = {}
        self._coming: set[str] = set()  # names of those being loaded
        self._resident: set[_Entry[W]] = set()  # also those unloaded while still in use
        self._turn = asyncio.Lock()  # first come, first served
        self._freed = asyncio.Event()
        self._waiting = 0
        self._clock = 0
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="adapters")

    @property
    def models(self) -> dict[str, str | None]:
        """Names to ask for: the base, which leads to None, and adapters, which lead to it."""
        return {self._base: None} | dict.fromkeys(self._entries, self._base)

    @property
    def roots(self) -> Mapping[str, str]:
        """The folder that each adapter was loaded from, as it was asked for."""
        return {name: str(entry.path) for name, entry in self._entries.items()}

    @property
    def resident(self) -> int:
        return len(self._resident)

    async def load(self, name: str, path: str, *, in_place: bool = False) -> None:
        """Makes an adapter known, having read it once. `in_place` lets it follow one of that name:
        requests that come before it is read get the old one. Raises ApiError: 400 for a bad name,
        folder or adapter and for a name in use, 404 for a folder without one, 503 for no memory."""
        self._check_name(name, in_place=in_place)
        entry: _Entry[W] = _Entry(name, self._check_path(path))
        self._coming.add(name)  # nobody else may take the name while it is read
        try:
            if self._make_room():
                self._begin_reading(entry)
                await self._weights(entry)
            else:  # all places are in use: it is checked now and read again when asked for
                await self._read_aside(entry.path)
        except BaseException:
            self._put_away(entry)
            raise
        finally:
            self._coming.discard(name)
        before = self._entries.get(name)
        self._entries[name] = entry
        if before is not None and not before.uses:
            self._put_away(before)

    def unload(self, name: str) -> None:
        """Refuses new requests for it from now on; those being answered finish. Raises ApiError."""
        entry = self._entries.pop(name, None)
        if entry is None:
            message = f"There is no adapter {name!r} here."
            raise ApiError(404, message, param="lora_name", code="adapter_not_found")
        if not entry.uses:
            self._put_away(entry)
        self._freed.set()  # whoever waits for a place for it waits in vain

    async def use(self, name: str) -> Use[W]:
        """Holds an adapter in memory for one request, read first if need be. Raises ApiError."""
        while True:
            entry = self._entries.get(name)
            if entry is None:
                raise no_such_model(name)
            if not entry.is_resident or self._turn.locked():
                await self._take_turn(entry)
            if self._entries.get(name) is entry:  # neither unloaded nor replaced meanwhile
                break
        self._touch(entry)
        entry.uses += 1
        try:
            weights = await self._weights(entry)
        except BaseException:
            self._let_go(entry)
            raise
        return Use(weights, lambda: self._let_go(entry))

    async def _take_turn(self, entry: _Entry[W]) -> None:
        """Waits until the adapter has a place in memory, behind those who waited before; or is no
        longer the one of its name."""
        if self._waiting >= self._most_waiting:
            raise unavailable(
                "The queue is full.", code="queue_full", retry_after_seconds=FULL_RETRY_SECONDS
            )
        self._waiting += 1
        try:
            async with self._turn:
                while self._entries.get(entry.name) is entry and not entry.is_resident:
                    if self._make_room():
                        self._begin_reading(entry)
                    else:
                        self._freed.clear()
                        await self._freed.wait()
        finally:
            self._waiting -= 1

    def _make_room(self) -> bool:
        if len(self._resident) < self._most:
            return True
        idle = [each for each in self._resident if not each.uses and each.weights is not None]
        if not idle:
            return False
        self._put_away(min(idle, key=lambda each: each.used_at))
        return True

    def _put_away(self, entry: _Entry[W]) -> None:
        entry.weights = None
        self._resident.discard(entry)
        self._freed.set()

    def _touch(self, entry: _Entry[W]) -> None:
        self._clock += 1
        entry.used_at = self._clock

    def _begin_reading(self, entry: _Entry[W]) -> None:
        """Shared by all who ask for it meanwhile."""
        self._touch(entry)
        self._resident.add(entry)
        work = self._read_aside(entry.path)
        entry.reading = asyncio.get_running_loop().create_task(work)
        entry.reading.add_done_callback(lambda done: self._done_reading(entry, done))

    def _done_reading(self, entry: _Entry[W], done: "asyncio.Task[W]") -> None:
        entry.reading = None
        if done.cancelled() or done.exception() is not None:
            self._put_away(entry)
            return
        if entry in self._resident:  # not put away while it was read
            entry.weights = done.result()
        self._freed.set()

    async def _weights(self, entry: _Entry[W]) -> W:
        if entry.reading is not None:
            return await asyncio.shield(entry.reading)
        if entry.weights is None:
            raise no_such_model(entry.name)
        return entry.weights

    def _let_go(self, entry: _Entry[W]) -> None:
        entry.uses -= 1
        if not entry.uses:
            if self._entries.get(entry.name) is not entry and entry.reading is None:
                self._put_away(entry)
            self._freed.set()

    async def _read_aside(self, path: Path) -> W:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self._read_folder, path)

    def _read_folder(self, path: Path) -> W:
        self._resolve(path)  # links may lead elsewhere by now
        try:
            return self._read(path)
        except MemoryError:
            raise unavailable(
                "The engine has no memory left for this adapter.",
                code="out_of_memory",
                retry_after_seconds=FULL_RETRY_SECONDS,
            ) from None

    def _check_name(self, name: str, *, in_place: bool) -> None:
        if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
            raise invalid("lora_name", f"'lora_name' must be 1 to {LONGEST_NAME} characters.")
        is_known = name in self._entries and not in_place
        if name == self._base or name in self._coming or is_known:
            raise invalid(
                "lora_name",
                f"There is a model {name!r} already; unload it first, or choose another name.",
                code="adapter_exists",
            )

    def _check_path(self, path: str) -> Path:
        if not self._folders:
            raise invalid("lora_path", "This engine was started without folders for adapters.")
        if "\0" in path or not Path(path).is_absolute() or ".." in Path(path).parts:
            raise invalid("lora_path", "'lora_path' must be an absolute folder, without '..'.")
        self._resolve(Path(path))
        return Path(path)

    def _resolve(self, path: Path) -> None:
        """Refuses a folder that is not there, or whose files lie outside what is allowed."""
        allowed = [each.resolve() for each in self._folders]

        def is_inside(found: Path) -> bool:
            return any(found.resolve().is_relative_to(each) for each in allowed)

        if not is_inside(path):
            raise invalid("lora_path", "'lora_path' is outside the folders for adapters.")
        if not path.is_dir():
            message = "There is no adapter here: the folder does not exist."
            raise ApiError(404, message, param="lora_path", code="adapter_not_found")
        for file in path.iterdir():
            if not is_inside(file):
                raise invalid("lora_path", f"{file.name} leads outside the folders for adapters.")

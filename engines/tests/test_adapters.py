"""The shelf of adapters: names, folders, places in memory, turns. Weights are texts here."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from engines.adapters import Adapters
from engines.protocol.errors import ApiError


class Scene:
    """A shelf over folders named a, b, c ...; `reads` says which were read, in order."""

    def __init__(self, root, *, most=2, folders=6, most_waiting=8):
        self.root = root
        self.reads = []
        self.gate = threading.Event()
        self.gate.set()
        for name in "abcdef"[:folders]:
            (root / name).mkdir(parents=True)
        self.shelf = Adapters(
            base="tiny",
            folders=[str(root)],
            most=most,
            most_waiting=most_waiting,
            read=self._read,
        )

    def _read(self, path):
        assert self.gate.wait(10)
        self.reads.append(path.name)
        return f"weights of {path.name}"

    async def load(self, *names):
        for name in names:
            await self.shelf.load(name, str(self.root / name))


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path / "root")


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


def test_the_least_recently_used_makes_room_and_comes_back(scene):
    async def play():
        await scene.load("a", "b", "c")
        assert scene.shelf.models == {"tiny": None, "a": "tiny", "b": "tiny", "c": "tiny"}
        assert scene.shelf.resident == 2
        scene.reads.clear()
        for name in ("b", "c", "b"):
            (await scene.shelf.use(name)).close()
        assert scene.reads == []  # both were in memory
        use = await scene.shelf.use("a")
        assert (use.weights, scene.reads) == ("weights of a", ["a"])
        use.close()
        use.close()  # twice is fine
        (await scene.shelf.use("b")).close()
        assert scene.reads == ["a"]  # c went, not b

    asyncio.run(play())


def test_many_being_read_leave_threads_to_others(tmp_path):
    async def play():
        scene = Scene(tmp_path / "root", most=6)
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        scene.gate.clear()
        loads = [asyncio.create_task(scene.load(name)) for name in "abcdef"]
        await settle()
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "done"), 10) == "done"
        scene.gate.set()
        await asyncio.gather(*loads)
        assert sorted(scene.reads) == list("abcdef")

    asyncio.run(play())


def test_one_in_use_is_never_put_away_and_others_wait_in_turn(scene):
    async def play():
        await scene.load("a", "b", "c", "d")
        held = [await scene.shelf.use("a"), await scene.shelf.use("b")]
        third = asyncio.create_task(scene.shelf.use("c"))
        await settle()
        late = asyncio.create_task(scene.shelf.use("a"))  # in memory, but c was first
        await settle()
        assert not third.done()
        assert not late.done()
        held[1].close()
        use = await asyncio.wait_for(third, 10)
        again = await asyncio.wait_for(late, 10)
        assert [use.weights, again.weights] == ["weights of c", "weights of a"]
        assert scene.shelf.resident == 2
        await scene.load("e")  # no place: it is checked, and read when asked for
        assert "e" in scene.shelf.models
        assert scene.shelf.resident == 2

    asyncio.run(play())


def test_many_who_ask_for_one_share_its_reading(scene):
    async def play():
        await scene.load("a", "b", "c")
        scene.reads.clear()
        scene.gate.clear()
        asked = [asyncio.create_task(scene.shelf.use("a")) for _ in range(5)]
        await settle()
        scene.gate.set()
        uses = await asyncio.gather(*asked)
        assert scene.reads == ["a"]
        for use in uses:
            use.close()

    asyncio.run(play())


def test_unloading_refuses_new_requests_and_leaves_old_ones_their_weights(scene):
    async def play():
        await scene.load("a", "b")
        use = await scene.shelf.use("a")
        scene.shelf.unload("a")
        with pytest.raises(ApiError) as caught:
            await scene.shelf.use("a")
        assert caught.value.status == 404
        assert scene.shelf.resident == 2  # it still takes its place
        await scene.load("a")  # the name is free again, and this is another one
        assert use.weights == "weights of a"
        use.close()
        (await scene.shelf.use("a")).close()
        scene.shelf.unload("a")
        assert scene.shelf.resident <= 1
        with pytest.raises(ApiError) as caught:
            scene.shelf.unload("a")
        assert (caught.value.status, caught.value.param) == (404, "lora_name")

    asyncio.run(play())


def test_one_follows_another_in_place(scene):
    async def play():
        root = scene.root
        await scene.load("a", "b")
        old = await scene.shelf.use("a")
        with pytest.raises(ApiError):
            await scene.shelf.load("a", str(root / "c"), in_place=False)
        scene.gate.clear()
        coming = asyncio.create_task(scene.shelf.load("a", str(root / "c"), in_place=True))
        await settle()
        (await scene.shelf.use("a")).close()  # the old one, meanwhile
        scene.gate.set()
        await asyncio.wait_for(coming, 10)
        new = await scene.shelf.use("a")
        assert (old.weights, new.weights) == ("weights of a", "weights of c")
        assert scene.shelf.roots["a"] == str(root / "c")
        old.close()
        new.close()
        assert scene.shelf.resident <= 2

    asyncio.run(play())


def test_one_unloaded_while_it_is_waited_for(scene):
    async def play():
        await scene.load("a", "b", "c")
        held = [await scene.shelf.use("a"), await scene.shelf.use("b")]
        waiting = asyncio.create_task(scene.shelf.use("c"))
        await settle()
        scene.shelf.unload("c")
        held[0].close()
        with pytest.raises(ApiError) as caught:
            await asyncio.wait_for(waiting, 10)
        assert caught.value.status == 404
        (await asyncio.wait_for(scene.shelf.use("b"), 10)).close()

    asyncio.run(play())


def test_only_so_many_wait(tmp_path):
    scene = Scene(tmp_path / "root", most=1, most_waiting=1)

    async def play():
        await scene.load("a", "b")
        held = await scene.shelf.use("a")
        waiting = asyncio.create_task(scene.shelf.use("b"))
        await settle()
        with pytest.raises(ApiError) as caught:
            await scene.shelf.use("b")
        assert (caught.value.status, caught.value.code) == (503, "queue_full")
        held.close()
        (await asyncio.wait_for(waiting, 10)).close()

    asyncio.run(play())


def test_a_folder_that_cannot_be_read_leaves_nothing_behind(scene):
    async def play():
        await scene.load("a")
        (scene.root / "b").rmdir()
        with pytest.raises(ApiError) as caught:
            await scene.load("b")
        assert caught.value.status == 404
        (scene.root / "b").mkdir()
        scene.reads = None  # reading fails
        with pytest.raises(AttributeError):
            await scene.load("b")
        scene.reads = []
        assert set(scene.shelf.models) == {"tiny", "a"}
        await scene.load("b")  # the name is still free
        assert scene.shelf.resident == 2

    asyncio.run(play())


def test_names_and_paths_that_are_refused(scene, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("x")
    (scene.root / "link").symlink_to(outside)
    (scene.root / "e" / "adapter_model.safetensors").symlink_to(outside / "secret")
    (scene.root / "f" / "adapter_model.safetensors").symlink_to(scene.root / "a")  # a cache's blob
    root = scene.root
    bad = {
        "": root / "a",
        "tiny": root / "a",
        "has\nlines": root / "a",
        "1": outside,
        "2": root / ".." / "outside",
        "3": root / "link",
        "4": root / "e",
        "5": "a",
        "6": f"{root}/a\0",
        "7": tmp_path / "root-and-more",
    }

    async def play():
        for name, path in bad.items():
            with pytest.raises(ApiError) as caught:
                await scene.shelf.load(name, str(path))
            assert caught.value.status == 400, name
        assert scene.reads == []
        await scene.load("f")
        with pytest.raises(ApiError, match="already"):
            await scene.load("f")
        without = Adapters(base="tiny", folders=[], most=1, most_waiting=1, read=str)
        with pytest.raises(ApiError, match="without folders"):
            await without.load("a", str(root / "a"))

    asyncio.run(play())

"""Adapters on the replicas of a host, from the rows to an engine host without processes."""

from datetime import timedelta
from pathlib import Path

import pytest

from accounts.tests.make import NOW, make_organization
from common.errors import InvalidInput, NotFound
from deployments import planning, reconcile, selectors, services
from deployments.choices import AttachmentStatus, DeploymentStatus, ReplicaStatus
from deployments.models import Attachment, Deployment, Replica
from deployments.tests.make import make_deployment, make_node, make_replica
from engines.fake_host import FakeHost
from engines.host import Seen
from models_registry.models import Revision
from models_registry.tests.make import make_adapter_revision, make_revision

pytestmark = pytest.mark.django_db
S = ReplicaStatus
D = DeploymentStatus


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, settings) -> None:
    settings.FACTORY_DATA = tmp_path / "data"
    settings.FACTORY_STORAGE = str(tmp_path / "storage")


class Scene:
    """An organization with a base that is served, and adapters of it."""

    def __init__(self, folder: Path, *, replicas: int = 1) -> None:
        self.folder = folder
        self.organization = make_organization()
        self.base = make_revision(folder, self.organization)
        self.node = make_node(accelerators=8)
        self.engines = FakeHost()
        self.host = make_deployment(
            folder, self.organization, name="base", revision=self.base, replicas=replicas
        )
        self.now = NOW
        for _ in range(replicas):
            self.start(self.host)

    def start(self, deployment: Deployment) -> Replica:
        """One more ready replica with a healthy engine."""
        replica = make_replica(deployment, status=S.READY, node=self.node)
        self.engines.seen[str(replica.pk)] = Seen.HEALTHY
        return replica

    def adapter(self, name: str, *, seed: int = 0, base: Revision | None = None) -> Revision:
        return make_adapter_revision(self.folder, base or self.base, name=name, seed=seed)

    def deploy(self, name: str, **options: object) -> Deployment:
        return make_deployment(
            self.folder,
            self.organization,
            name=name,
            revision=self.adapter(f"{name}-weights"),
            **options,  # type: ignore[arg-type]
        )

    def round(self, *, seconds: float = 0) -> None:
        """What agents and sweeps do in one round, `seconds` after the last."""
        self.now += timedelta(seconds=seconds)
        for pk in list(
            reconcile.list_out_of_step(self.node.pk, now=self.now).values_list("pk", flat=True)
        ):
            reconcile.attach_adapters(pk, host=self.engines, now=self.now)
        for pk in list(reconcile.list_unsettled().values_list("pk", flat=True)):
            reconcile.reconcile_deployment(pk, now=self.now)

    def loaded(self, replica: Replica) -> set[str]:
        return set(self.engines.adapters.get(str(replica.pk), {}))

    def routed(self) -> dict[str, set[object]]:
        """By public name: the replicas that a gateway may send it to."""
        return {
            row.name: {replica.id for target in row.targets for replica in target.replicas}
            for row in selectors.get_routing_table()
        }


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path, replicas=2)


def of(deployment: Deployment) -> list[Replica]:
    return list(Replica.objects.filter(deployment=deployment).order_by("created_at"))


def fresh(deployment: Deployment) -> Deployment:
    deployment.refresh_from_db()
    return deployment


def test_an_adapter_is_attached_to_the_replicas_that_serve_its_base(scene: Scene) -> None:
    tuned = scene.deploy("tuned")
    assert (tuned.host, tuned.desired_replicas) == (scene.host, 0)
    assert scene.routed()["tuned"] == set()  # 503 until it is there, never 404
    scene.round()
    first, second = of(scene.host)
    assert scene.loaded(first) == scene.loaded(second) == {"tuned"}
    folder = Path(scene.engines.adapters[str(first.pk)]["tuned"])
    assert (folder / "adapter_model.safetensors").exists()
    assert folder.is_relative_to(planning.weights_folder(scene.node.name))
    assert scene.routed()["tuned"] == scene.routed()["base"] == {first.pk, second.pk}
    (row,) = [each for each in selectors.get_routing_table() if each.name == "tuned"]
    assert (row.targets[0].deployment_id, row.targets[0].deployment_name) == (tuned.pk, "tuned")
    assert fresh(tuned).status == D.READY
    assert of(tuned) == []
    assert not reconcile.list_unsettled().exists()
    assert not reconcile.list_out_of_step(scene.node.pk, now=scene.now).exists()


def test_a_new_replica_counts_once_it_has_the_adapter(scene: Scene) -> None:
    tuned = scene.deploy("tuned")
    scene.round()
    services.scale_deployment(
        organization=scene.organization, deployment_id=scene.host.pk, replicas=3, now=NOW
    )
    third = scene.start(scene.host)
    assert third.pk in scene.routed()["base"]
    assert third.pk not in scene.routed()["tuned"]
    assert list(reconcile.list_unsettled().filter(pk=tuned.pk)) == [tuned]
    scene.round()
    assert third.pk in scene.routed()["tuned"]


def test_an_engine_that_lost_its_adapters_gets_them_again(scene: Scene) -> None:
    scene.deploy("tuned")
    scene.round()
    first, _ = of(scene.host)
    scene.engines.adapters[str(first.pk)].clear()
    assert first in reconcile.list_attached(scene.node.pk)
    reconcile.attach_adapters(first.pk, host=scene.engines, now=scene.now)
    assert scene.loaded(first) == {"tuned"}


def test_a_deleted_adapter_is_unloaded_once_gateways_have_heard(scene: Scene) -> None:
    tuned = scene.deploy("tuned")
    scene.deploy("other")
    scene.round()
    services.delete_deployment(
        organization=scene.organization, deployment_id=tuned.pk, now=scene.now
    )
    assert "tuned" not in scene.routed()
    scene.round(seconds=0.1)
    first, _ = of(scene.host)
    assert scene.loaded(first) == {"tuned", "other"}
    assert fresh(tuned).status == D.READY
    scene.round(seconds=2)
    assert scene.loaded(first) == {"other"}
    assert fresh(tuned).status == D.DELETED
    # Its name is free, and another adapter under it is another adapter.
    again = make_deployment(
        scene.folder, scene.organization, name="tuned", revision=scene.adapter("x", seed=3)
    )
    scene.round()
    assert fresh(again).status == D.READY
    assert again.revision.commit in scene.engines.adapters[str(first.pk)]["tuned"]


def test_a_failed_replica_takes_its_attachments_along(scene: Scene) -> None:
    tuned = scene.deploy("tuned")
    scene.round()
    first, second = of(scene.host)
    scene.engines.seen[str(first.pk)] = Seen.EXITED
    reconcile.step_replica(first.pk, host=scene.engines, now=scene.now)
    assert scene.routed()["tuned"] == {second.pk}
    assert Attachment.objects.filter(replica=first).count() == 0
    scene.round()
    assert fresh(tuned).status == D.READY  # it follows its host's replicas, however many they are
    scene.engines.seen[str(second.pk)] = Seen.EXITED
    reconcile.step_replica(second.pk, host=scene.engines, now=scene.now)
    scene.round()
    assert fresh(tuned).status == D.PENDING
    assert "base" in tuned.message


def test_a_refused_adapter_says_why_and_is_tried_again_after_a_pause(scene: Scene) -> None:
    scene.engines.refused["tuned"] = "it uses DoRA"
    tuned = scene.deploy("tuned")
    scene.round()
    assert fresh(tuned).status == D.FAILED
    assert "DoRA" in tuned.message
    assert scene.routed()["tuned"] == set()
    row = Attachment.objects.filter(deployment=tuned)[0]
    assert (row.status, row.failures) == (AttachmentStatus.FAILED, 1)
    del scene.engines.refused["tuned"]
    scene.round(seconds=0.5)
    assert fresh(tuned).status == D.FAILED
    scene.round(seconds=5)
    assert fresh(tuned).status == D.READY
    assert len(scene.routed()["tuned"]) == 2


def test_a_silent_engine_is_asked_again(scene: Scene) -> None:
    tuned = scene.deploy("tuned")
    first, second = of(scene.host)
    scene.engines.seen[str(first.pk)] = Seen.UNHEALTHY
    scene.round()
    assert scene.routed()["tuned"] == {second.pk}
    assert fresh(tuned).status == D.DEGRADED
    scene.engines.seen[str(first.pk)] = Seen.HEALTHY
    scene.round()
    assert fresh(tuned).status == D.READY


def test_without_a_host_an_adapter_has_replicas_of_its_own(tmp_path: Path) -> None:
    scene = Scene(tmp_path, replicas=0)
    alone = scene.deploy("alone")
    assert alone.host is None
    replica = make_replica(alone, node=scene.node)
    reconcile.step_replica(replica.pk, host=scene.engines, now=NOW)
    spec = scene.engines.specs[str(replica.pk)]
    assert (Path(spec.model_path) / "config.json").exists()  # the base's files
    assert spec.served_model_name == "alone:base"
    assert spec.adapter_folders == (str(planning.weights_folder(scene.node.name)),)
    scene.engines.seen[str(replica.pk)] = Seen.HEALTHY
    reconcile.step_replica(replica.pk, host=scene.engines, now=NOW)
    assert scene.routed()["alone"] == set()  # the engine is ready, the adapter is not
    reconcile.reconcile_deployment(alone.pk, now=NOW)
    assert fresh(alone).status == D.PENDING
    scene.round()
    assert scene.loaded(replica) == {"alone"}
    assert scene.routed()["alone"] == {replica.pk}
    assert fresh(alone).status == D.READY
    # Others of the same base share these replicas, unless they are told not to.
    guest, apart = scene.deploy("guest"), scene.deploy("apart", own_replicas=True)
    assert (guest.host, apart.host) == (alone, None)
    scene.round()
    assert scene.loaded(replica) == {"alone", "guest"}
    assert scene.routed()["guest"] == {replica.pk}


def test_hosts_that_cannot_serve_an_adapter_are_not_chosen_and_refused_by_name(
    scene: Scene, tmp_path: Path
) -> None:
    other_base = make_revision(tmp_path, scene.organization, name="other-base", seed=5)
    other = make_deployment(tmp_path, scene.organization, name="other", revision=other_base)
    foreign = make_deployment(tmp_path, make_organization("others"), name="foreign")
    with pytest.raises(InvalidInput, match="cannot serve"):
        scene.deploy("a", host_id=other.pk)
    with pytest.raises(NotFound):
        scene.deploy("a", host_id=foreign.pk)
    with pytest.raises(InvalidInput, match="Only an adapter"):
        make_deployment(
            tmp_path, scene.organization, name="b", revision=scene.base, host_id=scene.host.pk
        )
    assert scene.deploy("a", host_id=scene.host.pk).host == scene.host
    strange = scene.adapter("strange", base=other_base)
    deployed = make_deployment(tmp_path, scene.organization, name="strange", revision=strange)
    assert deployed.host == other


def test_a_host_is_not_deleted_while_adapters_hang_on_it_nor_scaled_through_them(
    scene: Scene,
) -> None:
    tuned = scene.deploy("tuned")
    scene.round()
    with pytest.raises(services.HostInUse, match="tuned"):
        services.delete_deployment(
            organization=scene.organization, deployment_id=scene.host.pk, now=NOW
        )
    with pytest.raises(services.ServedByHost, match="base"):
        services.scale_deployment(
            organization=scene.organization, deployment_id=tuned.pk, replicas=3, now=NOW
        )
    # Scaled to nothing, it says what to do about it.
    services.scale_deployment(
        organization=scene.organization, deployment_id=scene.host.pk, replicas=0, now=NOW
    )
    for replica in of(scene.host):
        Replica.objects.filter(pk=replica.pk).update(status=S.STOPPED)
        Attachment.objects.filter(replica=replica).delete()
    scene.round()
    assert fresh(tuned).status == D.PENDING
    assert "Scale base" in tuned.message
    services.delete_deployment(organization=scene.organization, deployment_id=tuned.pk, now=NOW)
    scene.round(seconds=2)
    assert fresh(tuned).status == D.DELETED
    services.delete_deployment(
        organization=scene.organization, deployment_id=scene.host.pk, now=NOW
    )


def test_another_adapter_follows_in_place_and_a_host_keeps_its_base(
    scene: Scene, tmp_path: Path
) -> None:
    tuned = scene.deploy("tuned")
    scene.round()
    better = scene.adapter("tuned-weights", seed=4)
    other = make_revision(tmp_path, scene.organization, name="other", seed=5)

    def update(deployment: Deployment, **change: object) -> object:
        return services.update_deployment(
            organization=scene.organization,
            deployment_id=deployment.pk,
            change=services.Change(**change),  # type: ignore[arg-type]
            now=scene.now,
        )

    assert update(tuned, revision_id=better.pk) is None
    first, second = of(scene.host)
    assert scene.routed()["tuned"] == {first.pk, second.pk}  # by the old one until the new is there
    scene.round()
    assert better.commit in scene.engines.adapters[str(second.pk)]["tuned"]
    assert fresh(tuned).status == D.READY
    assert {row.revision for row in Attachment.objects.all()} == {better}
    for change in ({"revision_id": scene.base.pk}, {"settings": {"max_concurrency": 2}}):
        with pytest.raises(services.ServedByHost):
            update(tuned, **change)
    with pytest.raises(services.HostInUse):
        update(scene.host, revision_id=other.pk)
    assert update(scene.host, settings={"max_concurrency": 2}) is not None


def test_a_hundred_adapters_on_one_base(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    names = {f"tenant-{number}" for number in range(100)}
    for name in sorted(names):
        scene.deploy(name)
    scene.round()
    scene.round()
    (replica,) = of(scene.host)
    assert scene.loaded(replica) == names
    statuses = Deployment.objects.filter(name__in=names).values_list("status", flat=True)
    assert set(statuses) == {D.READY}
    routed = scene.routed()
    assert all(routed[name] == {replica.pk} for name in names)
    assert not reconcile.list_unsettled().exists()

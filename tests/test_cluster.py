"""Painting on real worker processes, and what befalls them."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toy
from helpers import PATIENCE, wait_for

from nasdm_wsi.delivery import run_folder
from nasdm_wsi.errors import CheckpointError, OutputError, PlanError
from nasdm_wsi.job import Window
from nasdm_wsi.model import Painter
from nasdm_wsi.mosaic import cluster as clusters
from nasdm_wsi.mosaic.schedule import Grid, Ledger
from nasdm_wsi.rendering import render, render_region

HERE = Path(__file__).parent


def python(*arguments, **options):
    """A Python process of its own, quiet, that finds the modules of the tests."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
    return subprocess.Popen([sys.executable, *map(str, arguments)], env=environment, **options)


class Cluster:
    """A scheduler and two workers, each a process that can be killed."""

    def __init__(self, folder: Path):
        self.folder, self.number = folder, 0
        self.start()

    def start(self):
        self.number += 1
        self.file = self.folder / f"scheduler-{self.number}.json"
        command = ["-m", "distributed.cli.dask_scheduler", "--port", "0"]
        command += ["--dashboard-address", "127.0.0.1:0"]
        command += ["--scheduler-file", self.file]
        self.scheduler = python(*command, stderr=subprocess.DEVNULL)
        wait_for(self.file.exists)
        self.workers = [self.worker() for _ in range(2)]

    def worker(self):
        command = ["-m", "distributed.cli.dask_worker", "--scheduler-file", self.file]
        command += ["--nthreads", "1", "--no-nanny", "--no-dashboard"]
        return python(*command, stderr=subprocess.DEVNULL, cwd=self.folder)

    def kill_worker(self, which: int):
        self.workers[which].kill()
        self.workers[which].wait()
        self.workers[which] = self.worker()

    def stop(self):
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()

    def render(self, out: Path, seconds: float = 0.0):
        return python(
            HERE / "toy.py", self.file, out, seconds, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )


def parts(out: Path) -> list[Path]:
    return sorted(p for p in run_folder(out).glob("*/*/*") if not p.name.startswith("."))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "slide.ome.tif"
    render(toy.toy_job(), out, lossless=True, workers=1)
    return out


def same(out: Path, reference: Path) -> bool:
    left = sorted(path.name for path in out.parent.iterdir())
    return out.read_bytes() == reference.read_bytes() and left == ["slide.geojson", "slide.ome.tif"]


def finish(cluster: Cluster, out: Path) -> int:
    """The same command again; how many tasks it had to do."""
    output, complaint = (again := cluster.render(out)).communicate(timeout=PATIENCE)
    assert again.returncode == 0, complaint.decode()
    lines = [line.split() for line in output.decode().splitlines()]
    return next((int(total) for what, _, total in lines if what == "painting"), 0)


# Faults: each disturbs a render at a random moment.


def kill_worker(cluster, process, out, rng):
    """Nothing is lost, not even the render."""
    cluster.kill_worker(rng.randrange(2))
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


def kill_client(cluster, process, out, rng):
    process.kill()
    process.communicate()


def interrupt_client(cluster, process, out, rng):
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    assert process.returncode != 0


def kill_scheduler(cluster, process, out, rng):
    cluster.stop()
    _, complaint = process.communicate(timeout=PATIENCE)
    assert "cluster was lost" in complaint.decode() and process.returncode == 1
    cluster.start()


def corrupt_part(cluster, process, out, rng):
    kill_client(cluster, process, out, rng)
    path = rng.choice(parts(out))
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def truncate_part(cluster, process, out, rng):
    kill_client(cluster, process, out, rng)
    path = rng.choice(parts(out))
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def render_twice(cluster, process, out, rng):
    """The second is refused and does no harm to the first."""
    second = cluster.render(out)
    _, complaint = second.communicate(timeout=PATIENCE)
    assert second.returncode == 1
    assert "another render is running" in complaint.decode() or "exists" in complaint.decode()
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


def fill_disk(cluster, process, out, rng):
    filler = out.parent.parent / "filler"
    with open(filler, "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    _, complaint = process.communicate(timeout=PATIENCE)
    filler.unlink()
    full = "make room and run the same command" in complaint.decode()
    assert process.returncode == full  # near the end there may be room enough


FAULTS = [
    kill_worker,
    kill_client,
    interrupt_client,
    kill_scheduler,
    corrupt_part,
    truncate_part,
    render_twice,
    fill_disk,
]


@pytest.fixture
def disk(tmp_path):
    """A file system of its own, of thirty megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=30m", "none", str(folder)])
    if made.returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(24))
def test_after_any_fault_the_same_command_ends_in_the_same_bytes(cluster, undisturbed, disk, seed):
    rng, fault = random.Random(seed), FAULTS[seed % len(FAULTS)]
    out = disk / "here" / "slide.ome.tif"
    out.parent.mkdir()
    process = cluster.render(out, seconds=0.02)
    moment = rng.randrange(5, 60)
    wait_for(lambda: len(parts(out)) >= moment, process)
    fault(cluster, process, out, rng)
    if not out.exists():
        finish(cluster, out)
    assert same(out, undisturbed)


def test_what_is_finished_is_not_done_again(cluster, undisturbed, tmp_path):
    out = tmp_path / "slide.ome.tif"
    process = cluster.render(out, seconds=0.02)
    heard = [process.stdout.readline() for _ in range(40)]
    process.kill()
    heard += process.communicate()[0].splitlines()
    done, total = map(int, heard[-1].split()[1:])
    left = finish(cluster, out)
    assert total - done - 8 <= left <= total - done  # some were done that nobody heard of
    assert same(out, undisturbed)


def test_the_real_network_paints_the_same_bytes_on_any_workers(
    cluster, annotations, weights, tmp_path
):
    def rendered(name, *options):
        command = ["-m", "nasdm_wsi.cli", "render", annotations, "-o", tmp_path / name]
        command += ["--mpp", "0.05", "--size", "1100", "700", "--weights", weights]
        command += ["--steps", "3", "--device", "cpu", *options]
        process = python(*command, stderr=subprocess.PIPE)
        complaint = process.communicate(timeout=PATIENCE)[1].decode()
        assert process.returncode == 0 and "INFO" not in complaint, complaint
        return (tmp_path / name).read_bytes()

    threads = rendered("a.tif")
    assert rendered("b.tif", "--workers", "2") == threads
    assert rendered("c.tif", "--scheduler", cluster.file) == threads
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".geojson"] * 3 + [".tif"] * 3


@pytest.mark.parametrize(
    ("threads", "running", "seconds", "together"),
    [
        (2, 3, 1.0, 1),
        (1_000, 1_000, 1.0, 5),
        (1_000, 1_000, 0.0625, 80),
        (1_000, 800, 0.0625, 25),
        (1_000, 0, 0.0625, 5),
        (9_000, 0, 0.0625, 1),
    ],
)
def test_the_larger_the_cluster_the_more_tasks_are_sent_together(
    threads, running, seconds, together
):
    """At most 200 messages a second, and something for every idle worker; 5,000 are ready."""
    line, none = Grid((range(0),), (range(0),) * 5_000), [np.zeros((1, 5_000), bool)]
    bundler = clusters.Bundler()
    bundler.learn((0, 0, 0), seconds)
    tasks = bundler.take(Ledger([line], none, none), threads=threads, running=running)
    assert tasks == [(0, 0, j) for j in range(together)]


def test_a_region_in_memory_can_be_painted_by_a_cluster(cluster):
    job = toy.toy_job()
    with clusters.connect(str(cluster.file)) as client:
        painted = render_region(job, client=client)
        assert client.run(lambda dask_worker: list(dask_worker.plugins)) == dict.fromkeys(
            client.nthreads(), ["shuffle"]
        )  # the job is not kept
    np.testing.assert_array_equal(painted, render_region(job))


def test_a_painter_travels_and_finds_its_weights(weights, tmp_path):
    path = tmp_path / "here.safetensors"
    path.write_bytes(weights.read_bytes())
    rng = np.random.default_rng(0)
    box, tissue = (0, 0, 64, 64), np.ones((64, 64), bool)
    state = rng.normal(size=(6, 64, 64)).astype(np.float32)
    for place in (path, None):
        painter = Painter(*[place] * bool(place), steps=3, device="cpu", style=np.full(6, 0.1))
        planes = rng.integers(0, 2, (len(painter.planes), 64, 64)).astype(np.float32)
        window = Window(box, box, state, planes, tissue, None)
        sent = pickle.dumps(painter)
        assert len(sent) < 10_000
        np.testing.assert_array_equal(
            pickle.loads(sent).solve((1, 2), [window]), painter.solve((1, 2), [window])
        )
    sent = pickle.dumps(Painter(path, device="cpu"))
    path.write_bytes(Path(Painter(device="cpu").weights).read_bytes())
    with pytest.raises(CheckpointError, match="a different file on this worker"):
        pickle.loads(sent)


def test_a_cluster_that_is_not_there_is_one_line(cluster, monkeypatch, tmp_path):
    monkeypatch.setattr(clusters, "SECONDS_TO_ANSWER", 1)
    with pytest.raises(OutputError, match="no dask scheduler answers at tcp://127.0.0.1:9"):
        with clusters.connect("tcp://127.0.0.1:9"):
            pass
    lonely = tmp_path / "scheduler.json"
    command = ["-m", "distributed.cli.dask_scheduler", "--port", "0"]
    command += ["--dashboard-address", "127.0.0.1:0"]
    process = python(*command, "--scheduler-file", lonely, stderr=subprocess.DEVNULL)
    wait_for(lonely.exists)
    monkeypatch.undo()
    monkeypatch.setattr(clusters, "SECONDS_TO_JOIN", 1)
    with pytest.raises(OutputError, match="has no workers"):
        with clusters.connect(str(lonely)):
            pass
    process.kill()
    process.wait()


def test_a_task_that_kills_its_workers_ends_the_render_in_one_line(tmp_path):
    job = replace(toy.toy_job(), painter=toy.DeadlyPainter())
    with clusters.local(1) as client:
        with pytest.raises(OutputError, match="workers died during one task.*same command"):
            render(job, tmp_path / "slide.ome.tif", client=client)
    render(toy.toy_job(), tmp_path / "slide.ome.tif")  # what there is serves another painter


def test_a_worker_that_does_not_see_the_folder_is_named(cluster, tmp_path):
    with clusters.connect(str(cluster.file)) as client:
        with pytest.raises(OutputError, match=r"tcp://.* does not see .*storage"):
            with clusters.cluster_pool(client, tmp_path / "nowhere", dict):
                pass


def test_a_worker_with_another_version_is_named(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(clusters, "version", lambda package: "0.0.1")
    with clusters.connect(str(cluster.file)) as client:
        with pytest.raises(PlanError, match=r"tcp://.* has nasdm-wsi .*this is 0.0.1: install"):
            with clusters.cluster_pool(client, tmp_path, dict):
                pass

"""Whoever starts the processes says how many there are."""

from __future__ import annotations

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment

from hemiola.train import launcher

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "1",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "RANK": "5",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "1",
}
SLURM = {
    "SLURM_NTASKS": "6",
    "SLURM_NNODES": "3",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_JOB_NAME": "hemiola",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TORCHRUN, *SLURM):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "kind", "processes"),
    [
        ({}, LightningEnvironment, (1, 5)),
        (TORCHRUN, TorchElasticEnvironment, (4, 2)),
        (SLURM, SLURMEnvironment, (2, 3)),
        # torchrun started by srun, one a node, is what counts.
        (TORCHRUN | SLURM, TorchElasticEnvironment, (4, 2)),
    ],
)
def test_the_launcher_counts(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], kind: type, processes: tuple[int, int]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    launched = launcher.environment()
    assert type(launched) is kind
    assert launcher.processes(launched, devices=1, nodes=5) == processes
    if isinstance(launched, SLURMEnvironment):
        assert not launched.auto_requeue
        launched.validate_settings(*processes)

"""Who started the processes of a run, and how many: torchrun, SLURM's srun, or Lightning itself."""

from __future__ import annotations

import os

from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)


def environment() -> ClusterEnvironment:
    """What tells a process of a run who it is; to leave and come back is the run's own business, not the plugin's."""
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    return SLURMEnvironment(auto_requeue=False) if SLURMEnvironment.detect() else LightningEnvironment()


def processes(launched: ClusterEnvironment, devices: int, nodes: int) -> tuple[int, int]:
    """(processes a node, nodes): as many as torchrun or srun has started; else as the config says.

    So one config runs anywhere: its batch is that of all processes together, however many there are.
    """
    if isinstance(launched, TorchElasticEnvironment):
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        return local, launched.world_size() // local
    if isinstance(launched, SLURMEnvironment):
        nodes = int(os.environ["SLURM_NNODES"])
        return int(os.environ["SLURM_NTASKS"]) // nodes, nodes
    return devices, nodes

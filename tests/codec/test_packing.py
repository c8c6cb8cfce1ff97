"""What is made of weights is made once, and anew when they are others."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from hemiola.codec import packing_torch
from hemiola.codec.packing_torch import made_of


class Making:
    """Makes the sum of a module's weights, and counts how often."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, module: nn.Linear, times: int = 1) -> float:
        self.count += 1
        return times * float(module.weight.detach().sum())


@pytest.fixture
def module() -> nn.Linear:
    return nn.Linear(3, 4)


def test_it_is_made_once(module: nn.Linear) -> None:
    make = Making()
    first = made_of(module, make)
    assert made_of(module, make) == first == float(module.weight.detach().sum())
    assert make.count == 1
    assert made_of(module, make, 2) == 2 * first
    assert made_of(copy.deepcopy(module), make) == first
    assert make.count == 3


@torch.no_grad()
def changed_in_place(module: nn.Linear) -> None:
    module.weight.add_(1)


def stepped(module: nn.Linear) -> None:
    module(torch.ones(3)).sum().backward()
    torch.optim.AdamW(module.parameters(), 0.1).step()


def replaced(module: nn.Linear) -> None:
    module.weight = nn.Parameter(module.weight.detach() + 1)


def loaded(module: nn.Linear) -> None:
    module.load_state_dict({name: each + 1 for name, each in module.state_dict().items()})


def assigned(module: nn.Linear) -> None:
    module.load_state_dict({name: each + 1 for name, each in module.state_dict().items()}, assign=True)


def given_other_data(module: nn.Linear) -> None:
    module.weight.data = module.weight.data + 1


@pytest.mark.parametrize("change", [changed_in_place, stepped, replaced, loaded, assigned, given_other_data])
def test_it_is_made_anew_when_weights_change(module: nn.Linear, change) -> None:  # type: ignore[no-untyped-def]
    make = Making()
    for _ in range(5):
        made_of(module, make)
        change(module)
        assert made_of(module, make) == float(module.weight.detach().sum())
    assert make.count == 6


def test_nothing_outlives_its_module() -> None:
    module = nn.Linear(3, 4)
    there, kept = weakref.ref(module), len(packing_torch._KEPT)
    made_of(module, Making())
    assert len(packing_torch._KEPT) == kept + 1
    del module
    gc.collect()
    assert there() is None and len(packing_torch._KEPT) <= kept


def test_of_weights_without_a_count_of_changes_it_is_made_every_time() -> None:
    with torch.inference_mode():
        module, make = nn.Linear(3, 4), Making()
        made_of(module, make)
        module.weight.add_(1)
        assert made_of(module, make) == float(module.weight.detach().sum())
    assert make.count == 2

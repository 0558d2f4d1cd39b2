"""The arms of `make bench-recovery` can be asked whether they can run here; nothing is started."""

import pytest
from benchmarks.recovery.arms.arm import Arm
from benchmarks.recovery.arms.disttrain import Disttrain
from benchmarks.recovery.arms.torchft import Torchft
from benchmarks.recovery.arms.torchrun import Torchrun


@pytest.mark.parametrize("arm", [Torchrun(), Torchft(), Disttrain()], ids=lambda arm: arm.name)
def test_an_arm_says_what_it_lacks_or_nothing(arm: Arm) -> None:
    reason = arm.missing()
    assert reason is None or reason.strip()

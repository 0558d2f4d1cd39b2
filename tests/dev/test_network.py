from dev.cluster import addresses, network
from dev.cluster.addresses import NodeNet

NODE = NodeNet(2)


def _text(commands):
    return [" ".join(argv) for argv in commands]


def test_a_partition_pulls_exactly_one_cable_and_healing_plugs_it_in():
    (cut,) = _text(network.partition_commands(NODE))
    assert cut.endswith("ip link set node-2 down")
    healed = _text(network.heal_commands(NODE))
    assert healed[0].endswith("ip link set node-2 up")
    # The kernel forgets routes over a link that goes down.
    assert healed[1].endswith(f"ip route replace {NODE.pods} via {NODE.address}")


def test_no_namespace_has_a_way_out():
    for commands in (network.hub_commands("/a cache"), network.node_commands(NODE)):
        assert any(text.endswith("ip route add blackhole default") for text in _text(commands))


def test_only_the_hubs_cable_touches_the_host():
    on_host = [text for text in _text(network.hub_commands("/a cache")) if not text.startswith("nsenter")]
    assert all(
        addresses.HOST_CABLE in text or addresses.CONTROL_PLANE in text or "netns add" in text for text in on_host
    )
    on_host = [text for text in _text(network.node_commands(NODE)) if not text.startswith("nsenter")]
    assert on_host == [f"ip netns add {NODE.namespace}"]


def test_programs_enter_by_nsenter_so_that_the_cgroups_stay_visible():
    assert network.inside("x")[0] == "nsenter"

import ipaddress

import pytest
from dev.cluster import addresses
from dev.cluster.addresses import MOST_NODES, NodeNet, node_number


def test_no_address_leaves_the_range_set_aside_for_tests():
    whole = ipaddress.ip_network(addresses.WHOLE)
    for number in (1, MOST_NODES):
        net = NodeNet(number)
        assert ipaddress.ip_address(net.address) in whole
        assert ipaddress.ip_network(net.pods).subnet_of(whole)
    assert ipaddress.ip_network(addresses.SERVICES).subnet_of(whole)
    assert ipaddress.ip_network(addresses.PODS).subnet_of(whole)


def test_nothing_has_two_meanings():
    networks = [ipaddress.ip_network(f"{addresses.HOST}/30", strict=False), ipaddress.ip_network(addresses.SERVICES)]
    for number in range(1, MOST_NODES + 1):
        net = NodeNet(number)
        networks += [ipaddress.ip_network(f"{net.address}/30", strict=False), ipaddress.ip_network(net.pods)]
    networks.sort()
    assert not any(left.overlaps(right) for left, right in zip(networks, networks[1:], strict=False))


def test_the_dns_and_api_services_are_services():
    services = ipaddress.ip_network(addresses.SERVICES)
    assert ipaddress.ip_address(addresses.DNS_SERVICE) in services
    assert ipaddress.ip_address(addresses.API_SERVICE) == services[1]


def test_interface_names_fit_into_the_kernels_fifteen_characters():
    assert len(NodeNet(MOST_NODES).cable) <= 15
    assert len(addresses.HOST_CABLE) <= 15


@pytest.mark.parametrize("name", ["node", "node-", "node-0", "node-64", "worker-1", "node-x"])
def test_a_name_that_is_no_node_is_refused(name):
    with pytest.raises(ValueError, match="node"):
        node_number(name)


def test_a_node_is_found_by_its_name():
    assert NodeNet(node_number("node-2")).name == "node-2"

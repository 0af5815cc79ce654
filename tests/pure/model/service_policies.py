"""Policies of cilium.io that refer to services and to the API servers, for histories of events."""

import json

from hypothesis import strategies as st

from kilim.model.nouns import Policy

_to_services: st.SearchStrategy[dict[str, object]] = st.sampled_from(
    (
        {"k8sService": {"serviceName": "s", "namespace": "x"}},
        {"k8sService": {"serviceName": "s"}},
        {"k8sService": {"serviceName": "kubernetes", "namespace": "default"}},
        {"k8sServiceSelector": {"selector": {}}},
        {"k8sServiceSelector": {"selector": {"matchLabels": {"k8s:app": "web"}}, "namespace": "x"}},
        {"k8sServiceSelector": {"selector": {"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}}},
    )
)
_entities = st.sampled_from((["kube-apiserver"], ["kube-apiserver", "host"], ["cluster"]))
_tcp_80 = {"ports": [{"port": "80", "protocol": "TCP"}]}
_egress_rules = st.lists(
    st.one_of(
        st.lists(_to_services, min_size=1, max_size=2).map(lambda each: {"toServices": each}),
        _to_services.map(lambda each: {"toServices": [each], "toPorts": [_tcp_80]}),
        _entities.map(lambda each: {"toEntities": each}),
    ),
    min_size=1,
    max_size=2,
)
_service_specs = st.fixed_dictionaries(
    {"endpointSelector": st.sampled_from(({}, {"matchLabels": {"app": "web"}})), "egress": _egress_rules},
    optional={
        "egressDeny": _egress_rules,
        "ingress": _entities.map(lambda each: [{"fromEntities": each}]),
        "enableDefaultDeny": st.just({"egress": False}),
    },
)
service_policies = st.builds(
    lambda where, name, specs, nodes: Policy(where[0], where[1], name, json.dumps({"specs": specs}), False, nodes),
    st.sampled_from(
        (("CiliumNetworkPolicy", "x"), ("CiliumNetworkPolicy", "y"), ("CiliumClusterwideNetworkPolicy", ""))
    ),
    st.sampled_from(("p", "q")),
    st.lists(_service_specs, min_size=1, max_size=2),
    st.booleans(),
)

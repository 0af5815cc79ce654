"""The histories themselves: what they hold of policies is read as policies, and every field of them comes up."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from kilim.model.compile import parts_as_written
from kilim.model.nouns import Policy
from kilim.model.resource import parse_manifest
from tests.pure.model.cilium_histories import cidr_groups, cilium_policies


@settings(max_examples=300, deadline=None)
@given(st.one_of(cilium_policies, cidr_groups))
def test_every_policy_of_cilium_is_a_valid_one(policy: Policy) -> None:
    noun = parse_manifest(json.loads(policy.manifest_json)).noun
    assert isinstance(noun, Policy)
    assert (noun.kind, noun.namespace, noun.name) == (policy.kind, policy.namespace, policy.name)
    parts = [part.rules for part in parts_as_written(policy)]
    manifest = json.loads(policy.manifest_json)
    specs = [
        *([manifest["spec"]] if "endpointSelector" in manifest.get("spec", {}) else []),
        *manifest.get("specs", []),
    ]
    sections = ("ingress", "ingressDeny", "egress", "egressDeny")
    assert [len(rules) for rules in parts] == [sum(len(spec.get(each, [])) for each in sections) for spec in specs]

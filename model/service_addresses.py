"""The addresses of a v1 Service and their families, as Kubernetes' rules have them.

A visitor would get wrong: `clusterIP` is `clusterIPs[0]` said twice, and "None" (headless) stands alone.
"""

from ipaddress import ip_network

from kilim.model.fields import Object, child, read_list, read_text
from kilim.model.invalid import Invalid
from kilim.model.names import invalid_value, unsupported_value
from kilim.model.service_checks import check_serving_address, read_address, read_word

HEADLESS = "None"
_FAMILIES = {4: "IPv4", 6: "IPv6"}
_FAMILY_POLICIES = ("PreferDualStack", "RequireDualStack", "SingleStack")
_OF_THE_CLUSTER = ("clusterIPs", "ipFamilies", "ipFamilyPolicy")


def check_addresses(fields: Object, path: str, is_external_name: bool) -> tuple[str, ...]:
    """The cluster IPs that are said. Raises `Invalid`."""
    families = _read_families(fields.get("ipFamilies"), child(path, "ipFamilies"))
    policy = read_word(fields.get("ipFamilyPolicy"), child(path, "ipFamilyPolicy"), _FAMILY_POLICIES)
    found = _read_cluster_ips(fields, path)
    if is_external_name:
        for field, said in zip(_OF_THE_CLUSTER, (found, families, policy), strict=True):
            if said:
                raise Invalid(child(path, field), "Forbidden: may not be set for ExternalName services")
    elif found != (HEADLESS,):
        _check_families(found, families, policy, path)
    external_path = child(path, "externalIPs")
    for number, each in enumerate(read_list(fields.get("externalIPs"), external_path)):
        at = f"{external_path}[{number}]"
        check_serving_address(read_address(each, at), at)
    _check_ranges(fields.get("loadBalancerSourceRanges"), child(path, "loadBalancerSourceRanges"))
    return found


def _read_families(value: object, path: str) -> tuple[str, ...]:
    families: list[str] = []
    for number, each in enumerate(read_list(value, path)):
        family = read_text(each, f"{path}[{number}]")
        if family not in _FAMILIES.values():
            raise unsupported_value(f"{path}[{number}]", family, tuple(_FAMILIES.values()))
        if family in families:
            raise Invalid(f"{path}[{number}]", f'Duplicate value: "{family}"')
        families.append(family)
    return tuple(families)


def _read_cluster_ips(fields: Object, path: str) -> tuple[str, ...]:
    list_path = child(path, "clusterIPs")
    items = enumerate(read_list(fields.get("clusterIPs"), list_path))
    several = tuple(read_text(each, f"{list_path}[{number}]") for number, each in items)
    first = read_text(fields.get("clusterIP"), child(path, "clusterIP"))
    if several and not first:
        raise invalid_value(list_path, list(several), "must be empty when `clusterIP` is not specified")
    if several and several[0] != first:
        raise invalid_value(list_path, list(several), "first value must match `clusterIP`")
    if len(several) > 2:
        raise invalid_value(list_path, list(several), "may only hold up to 2 values")
    return several or ((first,) if first else ())


def _check_families(found: tuple[str, ...], families: tuple[str, ...], policy: str, path: str) -> None:
    list_path = child(path, "clusterIPs")
    if HEADLESS in found:
        raise invalid_value(list_path, list(found), f"'{HEADLESS}' must be the first and only value")
    of_ips = [_FAMILIES[read_address(each, f"{list_path}[{number}]").version] for number, each in enumerate(found)]
    if len(set(of_ips)) < len(of_ips):
        raise invalid_value(list_path, list(found), "may specify no more than one IP for each IP family")
    for number, (family, wanted) in enumerate(zip(of_ips, families, strict=False)):
        if family != wanted:
            rule = f"expected an {wanted} value as indicated by `ipFamilies[{number}]`"
            raise invalid_value(f"{list_path}[{number}]", found[number], rule)
    for said, words in ((found, "Cluster IPs"), (families, "IP families")):
        if len(said) > 1 and policy not in ("PreferDualStack", "RequireDualStack"):
            rule = f"must be 'RequireDualStack' or 'PreferDualStack' when multiple {words} are specified"
            raise invalid_value(child(path, "ipFamilyPolicy"), policy, rule)


def _check_ranges(value: object, path: str) -> None:
    for number, each in enumerate(read_list(value, path)):
        text = read_text(each, f"{path}[{number}]").strip()
        try:
            if "/" not in text:
                raise ValueError
            ip_network(text, strict=False)
        except ValueError:
            rule = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
            raise invalid_value(f"{path}[{number}]", text, rule) from None

"""Which lab and so which control plane a command speaks to when nobody says.

1. The lab that KILIM_LAB names; it must be there. 2. The lab `kilim`. 3. The only lab there is, not counting those of
`lab run`; where there are several, none is guessed. 4. No lab: port 4260.
"""

import json
import os

from kilim.lab.errors import BadInput
from kilim.lab.names import DEFAULT_LAB, RUN_ROOT, is_scenario_lab

_DEFAULT = ["127.0.0.1:4260"]


def default_servers() -> list[str]:
    """HOST:PORT of every replica. Reads one small file and imports nothing heavy, as every command asks."""
    lab = chosen_lab()
    if lab is None:
        return _DEFAULT
    try:
        replicas = json.loads((RUN_ROOT / lab / "lab.json").read_text())["replicas"]
    except (OSError, ValueError, KeyError):
        return _DEFAULT
    return [f"127.0.0.1:{replica['loopback_port']}" for replica in replicas] or _DEFAULT


def chosen_lab() -> str | None:
    """None where no lab is up. Raises BadInput where the choice would be a guess."""
    labs = sorted(file.parent.name for file in RUN_ROOT.glob("*/lab.json"))
    if wanted := os.environ.get("KILIM_LAB"):
        if wanted not in labs:
            raise BadInput(f"KILIM_LAB: no lab {wanted!r} is up (there is {', '.join(labs) or 'none'})")
        return wanted
    if DEFAULT_LAB in labs:
        return DEFAULT_LAB
    lasting = [lab for lab in labs if not is_scenario_lab(lab)]
    if len(lasting) > 1:
        raise BadInput(
            f"several labs are up ({', '.join(lasting)}): name one in KILIM_LAB, or give the server's address"
        )
    return lasting[0] if lasting else None

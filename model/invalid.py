"""Bad input, told once and clearly: the path of the field and the rule it breaks."""


class Invalid(ValueError):
    """`path` like `spec.ingress[0].ports[1].port`; `rule` says what must hold."""

    def __init__(self, path: str, rule: str) -> None:
        super().__init__(f"{path}: {rule}")
        self.path = path
        self.rule = rule

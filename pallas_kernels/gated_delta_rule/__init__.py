"""The gated delta rule: see `gated_delta_rule.api`."""

"""The delta rule by frames: see `frame_delta_rule.api`."""

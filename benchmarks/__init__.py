"""Programs that measure the platform beside a reference, in the same run."""

"""Where a job runs. Knows jobs, not learning."""

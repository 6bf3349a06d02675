"""A sweep: search space, scheduler, trials, tracking, report and the command line."""

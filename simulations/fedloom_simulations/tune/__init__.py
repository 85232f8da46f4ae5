"""`fedloom tune`: a search over settings in which every trial is a run that can be resumed."""

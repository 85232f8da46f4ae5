"""Pictures and tables of runs, made from run stores alone."""

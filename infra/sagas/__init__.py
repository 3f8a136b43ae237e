"""Runs the sagas: hears facts from the log, sends the commands they lead to, fires timers, all safe against dying."""

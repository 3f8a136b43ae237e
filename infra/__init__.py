"""Everything that touches the world: settings, wiring, engines, HTTP and the command line."""

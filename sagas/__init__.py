"""Pure process managers and their durable timers."""

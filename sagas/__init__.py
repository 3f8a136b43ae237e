"""Process managers and durable timers, pure: facts in, commands out; a saga's memory is the fold of its own stream."""

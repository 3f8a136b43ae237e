"""Commands and upstream facts from Kafka's topics: decided like those of HTTP, and answered on a topic."""

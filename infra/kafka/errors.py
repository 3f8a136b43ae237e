"""What can be wrong with Kafka, without loading its client: for whoever only has to know."""


class KafkaUnavailable(Exception):
    """No broker can be reached, or none answers in time. Whether the last write landed is unknown; repeat it."""

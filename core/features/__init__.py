"""Feature by feature: attribution, contexts, semantic or structural (5.1)."""

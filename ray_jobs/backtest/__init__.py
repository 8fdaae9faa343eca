"""A pipeline's history replayed under several policies, by the very code that monitors, trains and promotes."""

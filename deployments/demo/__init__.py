"""`make demo`: the whole loop on a year of real flights, through the deployments and the events that production uses."""

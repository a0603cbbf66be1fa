"""An engine that is split over ranks: a process for each, and the group that they are."""

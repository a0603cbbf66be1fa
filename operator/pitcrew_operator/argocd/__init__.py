"""What Argo CD has to be told of our resources: a rule that reads their health from their conditions."""

"""The parts of an experiment that do not depend on which rule, agent or suite it uses."""

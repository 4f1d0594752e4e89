"""How many replicas a load needs: one replica measured, a fleet of them simulated.

calibrate -> profile -> simulation -> answer -> smallest number
"""

"""Driving Udacity's simulator: the server that it connects to, and a client that behaves as it does.

==============  ======================================================================================
``protocol``    the simulator's messages as text, in both directions
``speed``       the throttle: holds a speed, slower in curves
``driver``      telemetry in, command out, whatever is wrong with the telemetry or the model
``recorder``    what was driven, as a log to train on again; never in the driver's way
``server``      the sockets: the simulator's, and the live page's
``simulator``   the other end: a client that drives the built-in track as Udacity's simulator would
==============  ======================================================================================
"""

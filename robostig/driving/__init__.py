"""Driving Udacity's simulator: the server that it connects to, and a client that behaves as it does.

==============  ======================================================================================
``protocol``    the simulator's messages as text, in both directions
``speed``       the throttle: holds a speed, slower in curves
``driver``      telemetry in, command out, whatever is wrong with the telemetry or the model
``lookout``     the model at work in a thread of its own, for as long as the car can wait
``recorder``    what was driven, as a log to train on again; never in the driver's way
``line``        a WebSocket to somebody who may stop reading
``server``      what listens: for simulators, and for the live page
``simulator``   the other end: a client that drives the built-in track as Udacity's simulator would
==============  ======================================================================================
"""

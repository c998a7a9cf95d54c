"""For how long telemetry is kept, within what the caps allow."""

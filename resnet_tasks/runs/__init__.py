"""Operations on a finished run: evaluate, calibrate, explain, compare."""

"""The paper's table: many models trained alike but for one thing each, evaluated on the same rooms, compared."""

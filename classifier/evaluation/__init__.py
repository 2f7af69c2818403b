"""From predictions to what one can say of them: figures, intervals, pictures, the report."""

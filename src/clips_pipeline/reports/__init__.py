"""HTML reports: the frame and charts of them all, and the report on prepared data. They know no Kedro."""

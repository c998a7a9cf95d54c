"""Background work: `every`, `cron` and `worker` jobs, exclusive ones by a lease in the database."""

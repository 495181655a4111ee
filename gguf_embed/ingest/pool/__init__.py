"""What embeds the texts of a job: this process, HTTP servers, or Ray actors."""

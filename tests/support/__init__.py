"""What several test folders share: projects, services, fault injection, the documentation pages."""

"""What nothing can be faster than: reading one side, writing the other, starting the orchestrator. Programs."""

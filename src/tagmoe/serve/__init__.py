"""An images server in OpenAI's protocol (`tagmoe serve`): small, exact, and safe by default."""

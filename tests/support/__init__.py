"""What the tests of the running server share: servers, clients and page contents."""
